"""`python -m declared`: store `crm.yml` in the database, as `make setup` does."""

from database.address import database_url
from declared.file import declare_file

if __name__ == "__main__":
    declare_file(database_url())
