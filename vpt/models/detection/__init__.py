"""Detection on a frozen backbone: feature pyramid, torchvision's heads, and an open-vocabulary head."""
