"""From JSON and images to tensors: templates, tokens and labels, images, processor, data set."""
