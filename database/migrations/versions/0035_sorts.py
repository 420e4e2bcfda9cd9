"""Every sort of a list has an index."""

from alembic import op

revision = "0035"
down_revision = "0034"


def upgrade() -> None:
    """Create the indexes of the sort keys that have none."""
    op.execute(
        """
        create index opportunities_by_opty_number_in_order on opportunities
        (lower(left(coalesce(opty_number, ''), 200)), id);
        create index opportunities_by_practice_in_order on opportunities
        (lower(left(coalesce(practice, ''), 200)), id);
        create index opportunities_by_geo_in_order on opportunities
        (lower(left(coalesce(geo, ''), 200)), id);
        create index opportunities_by_region_in_order on opportunities
        (lower(left(coalesce(region, ''), 200)), id);
        create index opportunities_by_sector_in_order on opportunities
        (lower(left(coalesce(sector, ''), 200)), id);
        create index opportunities_by_currency_in_order on opportunities
        (lower(left(coalesce(currency, ''), 200)), id);
        create index opportunities_by_sales_owner_in_order on opportunities
        (lower(left(coalesce(sales_owner, ''), 200)), id);
        create index opportunities_by_stage_in_order on opportunities
        (lower(left(coalesce(stage, ''), 200)), id);
        create index opportunities_by_status_code_in_order on opportunities
        (lower(left(coalesce(status_code, ''), 200)), id);
        create index opportunities_by_crm_outcome_in_order on opportunities
        (lower(left(coalesce(crm_outcome, ''), 200)), id);
        create index opportunities_by_win_probability on opportunities
        (coalesce(win_probability, '-infinity'), id);
        create index opportunities_by_remote_created_at on opportunities
        (coalesce(remote_created_at, '-infinity'), id);
        create index opportunities_by_first_synced_at on opportunities (first_synced_at, id);
        create index opportunities_by_last_synced_at on opportunities (last_synced_at, id);
        create index opportunities_by_deleted_at on opportunities
        (coalesce(deleted_at, '-infinity'), id);
        """
    )
