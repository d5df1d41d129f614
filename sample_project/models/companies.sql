select
  company_id,
  trim(company_name) as company_name,
  domain,
  country
from {{ ref('raw_companies') }}
