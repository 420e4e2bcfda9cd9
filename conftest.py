"""What holds for all tests."""

from hypothesis import settings

# On a busy machine any example can take long, and the time is not what is tested.
settings.register_profile("without deadline", settings(deadline=None))
settings.load_profile("without deadline")
