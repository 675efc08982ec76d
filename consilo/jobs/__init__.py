"""What may be asked: the kinds of jobs, and the sections that they share."""

from consilo.jobs.kinds import AnyJob as AnyJob  # whoever imports a job has all of its kinds
