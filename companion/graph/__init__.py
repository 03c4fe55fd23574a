"""Reading a live graph: its Nodes, what they saved, the modules that made them."""
