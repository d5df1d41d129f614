select
  customer_id,
  email,
  phone,
  first_name,
  last_name,
  city,
  postal_code,
  country,
  ads_consent,
  newsletter,
  signed_up_on,
  company_id,
  support_rep_id
from {{ ref('raw_customers') }}
