"""Where a fitted network goes when it leaves: modules and plain records in, files out.

Saved regressors: ``file`` is the container (safetensors, a record in JSON, a digest),
``atomic`` how it comes onto the disk, and ``lock`` keeps others from it; ``architecture``
describes modules, with the table of ``layers``; ``values`` writes settings, with the table of
their ``kinds``; and ``names`` says which classes and functions a file may name. Graphs:
``graph`` makes one, ``onnx`` a file of it, and ``agreement`` holds it against ``predict``.
Scripts: the rooms of ``script`` write one, part by part.
Nothing here knows an estimator, and no code from a file is run.
"""
