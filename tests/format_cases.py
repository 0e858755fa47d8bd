"""One case for every way an SAE is saved, of all families.

A case writes a checkpoint the way its library does and states, in plain torch and float64, what encoding and decoding
with it should give, and what the file tells about itself.
"""

import format_cases_dictionary_learning as dictionary_learning
import format_cases_others as others
import format_cases_saelens as saelens

CASES = dictionary_learning.CASES | saelens.CASES | others.CASES
