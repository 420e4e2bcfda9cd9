-- The database of a hand-written system as it is met: the columns are like those of this one, the
-- types are not, and neither are all values. The test adds deals that are in the CRM.
create table opportunities (
    id serial primary key,
    remote_id numeric(20, 2),
    name varchar(500),
    customer varchar(500),
    practice varchar(100),
    geo varchar(100),
    region varchar(100),
    sector varchar(100),
    deal_value double precision,
    currency varchar(10),
    win_probability integer,
    sales_owner varchar(200),
    stage varchar(100),
    workflow_status varchar(50) default 'NEW',
    close_date timestamp,
    last_synced_at timestamp
);
insert into opportunities (id, remote_id, name, deal_value, workflow_status, close_date) values
(1, null, 'Typed in by hand', 12.5, 'ASSIGNED', null),
(2, -5, 'A test', 'NaN', null, null),
(3, 300000000000001, 'Deleted in the CRM since', 1e300, 'assigned', 'infinity');
select setval('opportunities_id_seq', 1000);

create table users (
    id serial primary key,
    username varchar(200),
    full_name varchar(200),
    email varchar(200),
    hashed_password varchar(200),
    role varchar(50),
    is_active boolean
);
insert into users (id, username, full_name, email, hashed_password, role, is_active) values
(1, 'Anna Schmidt', 'Anna Schmidt', 'anna@example.com', 'pbkdf2:1', 'Manager', true),
(2, 'anna schmidt', null, null, 'pbkdf2:2', 'admin', false),
(3, 'bob', 'Bob', 'none', 'pbkdf2:3', 'superuser', false),
(4, 'carol', '', 'carol@example.com', 'pbkdf2:4', 'ASSESSOR', null),
(5, '  ', null, null, 'pbkdf2:5', 'viewer', true);

create table assessments (
    id serial primary key,
    opportunity_id integer,
    status varchar(50),
    scores json,
    comments text,
    recommendation varchar(20),
    risk_level varchar(20),
    assessor varchar(200),
    created_at timestamp,
    updated_at timestamp
);
insert into assessments
(id, opportunity_id, status, scores, comments, recommendation, risk_level, assessor, created_at)
values
(1, 3, 'approved', '{"win_chance": 5, "risk": {"score": 2, "comment": "Low"}, "mood": 3}', 'Go for it',
    'go', 'LOW', 'ANNA SCHMIDT', '2025-01-02 10:00'),
(2, 3, 'draft', '{"win_chance": 7}', null, 'perhaps', null, 'dave', '2025-01-03 10:00'),
(3, 3, 'In review', '[]', repeat('long ', 3000), 'no-go', null, 'bob', '2025-01-04 10:00'),
(4, 99, 'draft', null, null, null, null, null, null);

create table sync_logs (id serial primary key, status varchar(20), started_at timestamp);
insert into sync_logs (status) values ('success');

create table alembic_version (version_num varchar(32) primary key);
insert into alembic_version values ('5f1c2a9e77d0');

-- What has another name stays where it is, and goes on with the table it is made of.
create table notes (id serial primary key, opportunity_id integer references opportunities);
insert into notes (opportunity_id) values (3);
create view large_deals as select * from opportunities where deal_value > 1000000;
