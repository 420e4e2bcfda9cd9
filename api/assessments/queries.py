"""The SQL of assessments."""

# ruff: noqa: S608 - what is put into a statement stands in this file

from typing import LiteralString

# An assessment with the criteria that it was made with, and the votes that it has or waits for.
_SELECT: LiteralString = """
select
    assessments.*,
    declarations.content as criteria,
    (
        select coalesce(json_agg(approval order by number), '[]')
        from (
            select
                number,
                asked ->> 'function' as function,
                asked ->> 'label' as label,
                asked ->> 'value' as value,
                vote.decision, vote.comment, vote.user_id, vote.voted_at,
                array(
                    select open_votes.user_id
                    from open_votes
                    where open_votes.assessment_id = assessments.id
                        and open_votes.function = asked ->> 'function'
                    order by open_votes.user_id
                ) as waits_for
            from jsonb_array_elements(assessments.approvals) with ordinality as list (asked, number)
            left join assessment_votes as vote
                on vote.assessment_id = assessments.id and vote.function = asked ->> 'function'
        ) as approval
    ) as approvals
from assessments
join declarations on declarations.id = criteria_id
"""
LIST: LiteralString = f"""
{_SELECT}
where (%(opportunity_id)s::bigint is null or opportunity_id = %(opportunity_id)s)
    and (%(status)s::text is null or status = %(status)s)
    and (%(before)s::bigint is null or assessments.id < %(before)s)
    and (
        %(waiting_for)s::text is null
        or assessments.id in (select assessment_id from open_votes where user_id = %(user_id)s)
    )
order by assessments.id desc
limit %(limit)s
"""
GET: LiteralString = f"{_SELECT} where assessments.id = %s"
CRITERIA: LiteralString = "select content from declarations where id = %s"
LOCK: LiteralString = "select * from assessments where id = %s for update"
OPEN_OF: LiteralString = """
select id, status from assessments
where opportunity_id = %s and status in ('DRAFT', 'SUBMITTED')
"""
LAST: LiteralString = """
select version, scores, summary, recommendation
from assessments
where opportunity_id = %s
order by version desc
limit 1
"""
CREATE: LiteralString = """
insert into assessments (
    opportunity_id, version, criteria_id, scores, weighted_score, summary, recommendation,
    created_by, updated_by
)
values (
    %(opportunity_id)s, %(version)s, %(criteria_id)s, %(scores)s, %(weighted_score)s, %(summary)s,
    %(recommendation)s, %(user_id)s, %(user_id)s
)
returning id
"""
WRITE: LiteralString = """
update assessments
set
    scores = %(scores)s, weighted_score = %(weighted_score)s, summary = %(summary)s,
    recommendation = %(recommendation)s, revision = revision + 1,
    updated_by = %(user_id)s, updated_at = now()
where id = %(id)s
"""
SUBMIT: LiteralString = """
update assessments
set
    status = 'SUBMITTED', submitted_by = %(user_id)s, submitted_at = now(),
    approvals = %(approvals)s, revision = revision + 1
where id = %(id)s
"""
DECIDE: LiteralString = """
update assessments
set
    status = %(decision)s, decided_by = %(user_id)s, decided_at = now(),
    decision_comment = %(comment)s, revision = revision + 1
where id = %(id)s
"""
# The fields that may route a deal, the customer's own ones too.
DEAL: LiteralString = """
select coalesce(whole -> 'custom', '{}') || (whole - 'custom') as fields
from (select to_jsonb(opportunities) as whole from opportunities where id = %s) as deal
"""
OPEN_VOTES: LiteralString = """
select function from open_votes where assessment_id = %s and user_id = %s
"""
HOLDS_ANY: LiteralString = """
select exists (select from user_functions where user_id = %s) as holds
"""
HOLDS_ONE_OF: LiteralString = """
select exists (
    select
    from user_functions
    join jsonb_array_elements(%(approvals)s) as approval
        on approval ->> 'function' = function
        and lower(user_functions.value) in ('', lower(approval ->> 'value'))
    where user_id = %(user_id)s
) as holds
"""
VOTE: LiteralString = """
insert into assessment_votes (assessment_id, function, decision, user_id, comment)
values (%(id)s, %(function)s, %(decision)s, %(user_id)s, %(comment)s)
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
