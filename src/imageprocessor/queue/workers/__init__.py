"""The processes that run jobs: embedded workers and Celery's."""
