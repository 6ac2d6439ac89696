"""`train_batch.jpg`: the first batch of a run as the model gets it, after augmentation, with its labels or boxes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from vpt.training.callbacks import Callback
from vpt.training.step import AnyBatch
from vpt.utils.atomic_io import write_atomic
from vpt.utils.distributed import is_first
from vpt.utils.image_grid import grid, scaled, tile

if TYPE_CHECKING:
    from vpt.training.trainer import Trainer

MOST = 12  # images
NAME = "train_batch.jpg"


class BatchPictures(Callback):
    """Draws the first batch of a new run, unless it consists of cached features."""

    def before_step(self, trainer: Trainer, batch: AnyBatch) -> None:
        """Draw the batch if it is the first one."""
        folder = trainer.folder
        if trainer.progress.step > 0 or folder is None or not is_first():
            return
        examples = trainer.task.examples(batch, trainer.context, MOST)
        if examples:
            picture = Image.fromarray(grid([tile(scaled(pixels)[0], [line]) for pixels, line in examples]))
            write_atomic(Path(folder, NAME), lambda temporary: picture.save(temporary, "JPEG", quality=90))
