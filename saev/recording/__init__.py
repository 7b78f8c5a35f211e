"""Recording: images → frozen backbone → activation tars.

record_activations: config → folder of activations, recorded now or found
request: what a recording depends on, and its name
recorder: a recording that can be stopped at any moment
shard_recorder: one pass over images, tars of several layers
parts: state on disk: finished shards, and the manifest they add up to
streaming: images → backbone → reservoir → batches, without tars
final_features: the backbone's output as one more layer
"""
