"""Files: modules and records in, bytes out, and back without running any code from the file.

``file`` is the container (safetensors, a record in JSON, a digest) and ``atomic`` how it comes
onto the disk; ``architecture`` describes modules, with the table of ``layers``; ``values``
writes settings, with the table of their ``kinds``; and ``names`` says which classes and
functions a file may name. Nothing here knows an estimator.
"""
