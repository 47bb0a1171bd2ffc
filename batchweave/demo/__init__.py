"""The demo: three producers, four ranks, two kills, and a proof from the data itself.

``corpus`` says what is tokenised, ``producer`` and ``reader`` are the programs of the workers
(``worker`` is what they share), ``crew`` starts and kills them, ``run`` conducts, ``display``
shows, ``proof`` proves. Only public names of BatchWeave are used: it is also an example.
"""
