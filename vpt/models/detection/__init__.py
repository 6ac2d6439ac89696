"""Detection on a frozen backbone: pyramid, torchvision's heads, an open-vocabulary head, metrics, pictures."""
