# The walk of somebody new, with what README and docs show: four data sets, from the check to the exported file.
# tests/project/test_newcomer_walk.py draws the data and runs this in bash and in zsh.
set -eu

# Class folders.
vpt data check flowers --preview flowers.png > check-flowers.txt
vpt train data=flowers test_fraction=0.2 backbone=vpt_nano epochs=1 workers=0 compare=none
vpt eval runs/flowers-vpt_nano-deep split=test > eval-flowers.txt
vpt report runs/flowers-vpt_nano-deep
vpt predict runs/flowers-vpt_nano-deep new/*.jpg --format csv --output flowers.csv
vpt train resume=runs/flowers-vpt_nano-deep

# A CSV with several labels for a photo.
vpt data check tags/labels.csv > check-tags.txt
vpt train data=tags/labels.csv backbone=vpt_nano tokens=4 epochs=1 workers=0
vpt predict runs/tags-vpt_nano-deep new/ --format json > tags.json
vpt report runs/tags-vpt_nano-deep

# Pascal VOC, with its lists of images.
vpt data check VOC task=detection > check-VOC.txt
vpt train task=detection data=VOC backbone=vpt_nano head.size=64 epochs=1 workers=0
vpt predict runs/VOC-vpt_nano-none new/ --draw drawn --format json > VOC.json
vpt report runs/VOC-vpt_nano-none
vpt data convert VOC --to coco --output VOC-coco

# YOLO, with its YAML file.
vpt data check yard/data.yaml task=detection > check-yard.txt
vpt train task=detection data=yard/data.yaml backbone=vpt_nano head.size=64 epochs=1 workers=0
vpt predict runs/yard-vpt_nano-none new/*.jpg --format json > yard.json
vpt report runs/yard-vpt_nano-none

# Files for other programs. "quick" ends before.
if [ "${1:-}" = quick ]; then
  exit 0
fi
vpt export runs/flowers-vpt_nano-deep --output flowers.onnx
vpt export runs/yard-vpt_nano-none --size 64x80 --output yard.onnx --check new/*.jpg
