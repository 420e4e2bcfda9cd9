"""The SQL of assessments."""

from typing import LiteralString

LIST: LiteralString = """
select *
from assessments
where (%(opportunity_id)s::bigint is null or opportunity_id = %(opportunity_id)s)
    and (%(status)s::text is null or status = %(status)s)
    and (%(before)s::bigint is null or id < %(before)s)
order by id desc
limit %(limit)s
"""
GET: LiteralString = "select * from assessments where id = %s"
GET_FOR_CHANGE: LiteralString = "select * from assessments where id = %s for update"
OPEN_OF: LiteralString = """
select id, status from assessments
where opportunity_id = %s and status in ('DRAFT', 'SUBMITTED')
"""
# A new draft begins with what the last version said.
CREATE: LiteralString = """
insert into assessments (
    opportunity_id, version, scores, weighted_score, summary, recommendation,
    created_by, updated_by
)
select
    %(opportunity_id)s, coalesce(last.version, 0) + 1, coalesce(last.scores, '{}'),
    last.weighted_score, coalesce(last.summary, ''), last.recommendation,
    %(user_id)s, %(user_id)s
from (select) as one
left join (
    select * from assessments
    where opportunity_id = %(opportunity_id)s
    order by version desc
    limit 1
) as last on true
returning *
"""
WRITE: LiteralString = """
update assessments
set
    scores = %(scores)s, weighted_score = %(weighted_score)s, summary = %(summary)s,
    recommendation = %(recommendation)s, revision = revision + 1,
    updated_by = %(user_id)s, updated_at = now()
where id = %(id)s
returning *
"""
SUBMIT: LiteralString = """
update assessments
set
    status = 'SUBMITTED', submitted_by = %(user_id)s, submitted_at = now(),
    revision = revision + 1
where id = %(id)s
returning *
"""
DECIDE: LiteralString = """
update assessments
set
    status = %(decision)s, decided_by = %(user_id)s, decided_at = now(),
    decision_comment = %(comment)s, revision = revision + 1
where id = %(id)s
returning *
"""
COMMENTS: LiteralString = """
select assessment_comments.*, users.name as author
from assessment_comments
left join users on users.id = author_id
where assessment_id = %s
order by assessment_comments.id
"""
COMMENT: LiteralString = """
insert into assessment_comments (assessment_id, author_id, body)
values (%(assessment_id)s, %(author_id)s, %(body)s)
returning *
"""
