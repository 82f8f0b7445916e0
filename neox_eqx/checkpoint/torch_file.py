"""Reading parts of the tensors in a file that `torch.save` wrote."""
