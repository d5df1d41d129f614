-- Support reps.
select
  employee_id,
  name,
  email,
  hired_on
from {{ ref('raw_employees') }}
