"""A language model that is fine-tuned by transformers' Trainer and pulled back to where it was: python trainer.py"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import forgetting
from forgetting.integrations.transformers import as_trainer_callback

model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2))
tokens = torch.randint(50, (64, 16))
l2sp = forgetting.L2SP(strength=0.1)
l2sp.consolidate(model)  # before training: the model as it was pretrained
settings = TrainingArguments("out", max_steps=10, logging_steps=5, learning_rate=1e-3, report_to="none", use_cpu=True)
trainer = Trainer(model, settings, train_dataset=[{"input_ids": row, "labels": row} for row in tokens],
                  callbacks=[as_trainer_callback(l2sp)])
trainer.train()
