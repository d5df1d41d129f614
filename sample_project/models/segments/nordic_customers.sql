select customer_id
from {{ ref('customers') }}
where country in ('SE', 'SWE', 'Sweden')
