"""The fields of deals are declared, and deals have the customer's own."""

from alembic import op

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    """Create the tables of fields and of the CRM's attributes; extend `opportunities`."""
    op.execute(
        """
        alter table opportunities add custom jsonb not null default '{}';
        comment on column opportunities.custom is
            'The customer''s own fields by their declared names; also those that were removed.';

        create table declared_fields (
            name text primary key,
            attribute text not null,
            label text,
            type text check (type in ('text', 'number', 'date', 'timestamp', 'boolean', 'list')),
            "column" text,
            filter boolean not null,
            sort boolean not null,
            place text not null check (place in ('list', 'deal', 'hidden')),
            position integer not null,
            removed_at timestamptz
        );
        comment on table declared_fields is
            'What crm.yml says of fields, as the last run read it, and what it once said.';

        create table crm_attributes (
            name text primary key,
            label text,
            type text,
            first_seen_at timestamptz not null default now(),
            gone_since timestamptz,
            previous_type text,
            type_changed_at timestamptz
        );
        comment on table crm_attributes is
            'The attributes of opportunities that the CRM''s descriptions have listed so far.';
        """
    )
