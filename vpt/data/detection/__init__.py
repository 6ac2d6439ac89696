"""Data sets of boxes: COCO, Pascal VOC and YOLO are read into records, checked, split, converted and loaded."""
