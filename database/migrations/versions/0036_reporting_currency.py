"""Values are converted into one currency."""

from alembic import op

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    """Give deals a converted value with an index; keep the rates by which it was converted."""
    op.execute(
        """
        alter table opportunities
            add crm_rate numeric,
            add crm_rate_currency text,
            add reporting_value numeric;
        comment on column opportunities.crm_rate is
            'The CRM''s own rate: the worth of one unit of currency in crm_rate_currency.';
        comment on column opportunities.reporting_value is
            'deal_value in the currency of reporting_currency; null: there is none, or no rate.';
        create index opportunities_by_reporting_value on opportunities
        (coalesce(reporting_value, '-infinity'), id);

        create table reporting_currency (
            currency text,
            rates jsonb not null,
            since timestamptz not null default now()
        );
        comment on table reporting_currency is
            'One row: the currency and the rates by which reporting_value was converted.';
        insert into reporting_currency (rates) values ('{}');

        insert into declarations (section, content)
        values ('currency', '{"reporting": null, "rates": {}}');
        """
    )
