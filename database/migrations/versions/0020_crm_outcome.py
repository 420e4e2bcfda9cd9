"""What the CRM says of a deal, whatever codes a customer has: OPEN, WON, LOST or CLOSED."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Add `crm_outcome`, the rules that it comes from, and the codes that no rule knows."""
    op.execute(
        """
        create table declared_outcomes (
            section text not null check (section in ('statuses', 'stages')),
            name text not null,
            outcome text not null check (outcome in ('OPEN', 'WON', 'LOST', 'CLOSED')),
            primary key (section, name)
        );
        comment on table declared_outcomes is
            'What crm.yml says of status codes and stages, as the last run read it.';

        create table status_outcomes (
            code text primary key,
            outcome text check (outcome in ('OPEN', 'WON', 'LOST', 'CLOSED')),
            source text not null
                check (source in ('declared', 'crm', 'row', 'predefined', 'unknown'))
        );
        comment on table status_outcomes is
            'Each status code that was declared, listed or seen: its outcome, and who says so.';
        """
    )
    op.execute(
        r"""
        alter table opportunities
            add crm_outcome text check (crm_outcome in ('OPEN', 'WON', 'LOST', 'CLOSED')),
            add unknown_status_code text;
        comment on column opportunities.crm_outcome is
            'What the CRM says of the deal; null: its status is not known, and it counts as open.';
        comment on column opportunities.unknown_status_code is
            'The CRM''s code of the deal while nothing tells what it means.';

        -- The first sync judges all deals. Until then a deal is as closed as it was.
        update opportunities
        set crm_outcome = case
            when workflow_status_before_close is not null then workflow_status else 'OPEN'
        end
        where workflow_status in ('WON', 'LOST', 'CLOSED')
                and workflow_status_before_close is not null
            or workflow_status_before_close is null and status_code ~* '^\s*open\s*$';

        -- Few deals, or none; the codes can be longer than an index entry may be.
        create index opportunities_of_unknown_status_code on opportunities (id)
        where unknown_status_code is not null;
        create index opportunities_without_crm_outcome on opportunities (id)
        where crm_outcome is null and unknown_status_code is null;
        """
    )
