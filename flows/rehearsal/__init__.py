"""``consilo job rehearse``: a job's federation on this machine, through one fault after another."""
