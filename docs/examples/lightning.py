"""Hold a LightningModule to what it knew: one callback, and the training step's loss stays the task's own."""

from pytorch_lightning import LightningModule, Trainer

import forgetting
from forgetting.integrations.lightning import as_lightning_callback


def adapt(model: LightningModule, source_batches, target_batches, strength: float = 30.0) -> Trainer:
    """Fine-tune on the target, held by EWC; ``trainer.save_checkpoint`` keeps what it remembers, too."""
    ewc = forgetting.EWC(strength)
    ewc.consolidate(model, source_batches)
    trainer = Trainer(max_epochs=1, gradient_clip_val=1.0, callbacks=[as_lightning_callback(ewc)], logger=False,
                      enable_checkpointing=False)
    trainer.fit(model, target_batches)
    return trainer
