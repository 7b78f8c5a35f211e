"""How fast: what ``make bench`` measures, each against a limit that nobody passes or what others do.

rows: one measured number, and how such numbers are taken and shown
steps: training steps through Lightning's loop, against the encoder product and the dense step
peers: other libraries' own training steps, in the same rounds
loading: tokens out of activation tars, against the two copies
recording: images to tars, against the bare forward pass
sweeping: eight dictionaries on one stream, against one
memory: the most that a training step holds
"""
