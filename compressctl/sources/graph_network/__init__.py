"""An ONNX graph as a PyTorch network, which can be pruned, trained and written back: torch's own layers where weights are, its operators elsewhere.

`read.py` goes through the graph and makes a plan of steps, `layers.py` the layers that hold weights, `operators.py` and `numbers.py` what steps
compute, `network.py` the module that runs them, `prove.py` compares it with the file, node by node.
"""
