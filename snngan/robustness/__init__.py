"""What classifiers make of inputs that are not what they were trained for."""
