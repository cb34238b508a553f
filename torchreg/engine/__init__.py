"""The engine: it trains. It knows tensors, modules and hyperparameters, nothing above them.

``rows`` holds the training rows and their statistics, ``network`` builds the module,
``stepper`` moves the parameters, ``loop`` is the story of a fit, and ``skorch_net`` lets
skorch's callbacks listen to it.
"""
