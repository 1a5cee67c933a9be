"""What the library promises of whole experiments; minutes each, so they have a command of their own: ``make exams``."""
