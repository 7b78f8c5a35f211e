"""Training: dictionaries and heads, with Lightning.

train_sae: config → recorded activations → fit → evaluation
fit: one dictionary, from recorded activations to an exported folder
sae_module: the LightningModule of a dictionary
arguments: the nodes of its arguments, and what is refused before any data is read
shared_stream: one stream of activations for several dictionaries
precision: float32 or bfloat16 products, by measure
schedules: the learning rate by step, what is logged, when AuxK is computed
muon: the Muon optimiser
distributed: what training must know of other ranks
resume_points: checkpoints written whole, and what ends a training before its time
train_head: config → features → grid of heads → scores
head_module: LightningModules of a grid of linear heads
"""
