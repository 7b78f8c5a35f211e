"""What runs inside the environments of other libraries, which need not have saev installed.

train_peer: one dictionary by one library's own training loop
"""
