"""Detection data: COCO, Pascal VOC and YOLO are read into records, validated, split, converted and loaded."""
