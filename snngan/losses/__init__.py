"""The soft nearest neighbor loss and its relatives: tensors in, a scalar out."""

from snngan.lazy import public_names

__getattr__, __dir__ = public_names(
    __name__,
    {
        "entangled": "EntangledLoss hidden_layers",
        "mmd": "squared_mmd",
        "penalty": "gradient_penalty",
        "snnl": "Entanglement SoftNearestNeighborLoss entanglement soft_nearest_neighbor_loss",
        "temperature": "Temperature FixedTemperature RelativeTemperature AnnealedTemperature LearnedTemperature "
        "OptimalTemperature parse_temperature",
        "triplet": "triplet_loss",
    },
)
