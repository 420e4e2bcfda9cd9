"""`python -m api` serves the API and the console."""

import gc
import sys

import uvicorn
from pydantic import ValidationError

from api.app import create_app
from api.logs import CONFIGURATION
from api.settings import Settings
from database.address import database_url
from database.environment import setting
from database.migrate import migrate_if_needed


def main() -> None:
    """Bring the database up to date, and serve until told to stop."""
    try:
        settings = Settings()
        url = database_url()
        migrate_if_needed(url)
        app = create_app(settings, url)
    except ValidationError as error:
        # Not pydantic's own words: they quote the value, which may be a secret.
        sys.exit("; ".join(f"{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()))
    except ValueError as error:
        sys.exit(str(error))
    # What is there now stays: looking through it again and again would hold up requests.
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host=settings.api_host,
        port=settings.api_port,
        log_config=CONFIGURATION,
        access_log=False,  # api.requests writes one
        server_header=False,
        # Who says truly whom a request comes from, and whether it came by https.
        forwarded_allow_ips=setting("FORWARDED_ALLOW_IPS") or "127.0.0.1",
        timeout_graceful_shutdown=5,  # who follows a sync may not hold up a restart
    )


if __name__ == "__main__":
    main()
