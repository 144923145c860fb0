"""The soft nearest neighbor loss and its relatives: tensors in, a scalar out."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        "AnnealedTemperature": "temperature",
        "EntangledLoss": "entangled",
        "Entanglement": "snnl",
        "FixedTemperature": "temperature",
        "LearnedTemperature": "temperature",
        "OptimalTemperature": "temperature",
        "RelativeTemperature": "temperature",
        "SoftNearestNeighborLoss": "snnl",
        "Temperature": "temperature",
        "entanglement": "snnl",
        "gradient_penalty": "penalty",
        "hidden_layers": "entangled",
        "parse_temperature": "temperature",
        "soft_nearest_neighbor_loss": "snnl",
        "squared_mmd": "mmd",
        "triplet_loss": "triplet",
    },
)
