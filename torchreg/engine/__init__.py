"""The engine: it trains. It knows tensors, modules and hyperparameters, nothing above them.

From top to ground: ``fit`` is one fit, from raw rows to a fitted module; ``loop`` is the story of
its epochs; ``stepper`` moves the parameters by a step, down a ``gradient`` that is computed by
autograd or by the program that ``capture`` wrote down; ``objective`` is what the steps go
down. ``network`` builds the module, ``rows`` and ``statistics`` hold the data, ``predict``
sends rows through a fitted module, and ``skorch_net`` lets skorch's callbacks listen.
"""
