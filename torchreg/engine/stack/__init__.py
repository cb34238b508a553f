"""Train many networks of one architecture as one stack."""
