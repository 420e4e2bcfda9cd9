"""`python -m declared`: store `crm.yml` in the database and index its fields, for `make setup`."""

from database.address import database_url, url_for
from declared.file import declare_file
from declared.indexes import build_indexes

if __name__ == "__main__":
    url = database_url()
    declare_file(url)
    for line in build_indexes(url_for("migrate", url)):
        print(line)
