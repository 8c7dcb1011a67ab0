"""Notes and their patients of an OMOP Common Data Model 5.4, on top of the SQL connector.

One record a note, one unit a person. Concepts are named where the vocabulary has them.
"""

from client.connectors.sql import SqlConnector
from client.sources import OmopSection

_QUERY = """
SELECT n.note_id, n.person_id, n.note_date, n.note_title, n.note_text,
       class.concept_name AS note_class, type.concept_name AS note_type,
       gender.concept_name AS gender, p.year_of_birth
FROM {schema}note n
JOIN {schema}person p ON p.person_id = n.person_id
LEFT JOIN {schema}concept class ON class.concept_id = n.note_class_concept_id
LEFT JOIN {schema}concept type ON type.concept_id = n.note_type_concept_id
LEFT JOIN {schema}concept gender ON gender.concept_id = p.gender_concept_id
ORDER BY n.note_id
"""


def omop_connector(data: OmopSection) -> SqlConnector:
    """The notes of the CDM that `data` names."""
    # A plain name, as the settings made sure.
    schema = f'"{data.cdm_schema}".' if data.cdm_schema else ""
    return SqlConnector(data, _QUERY.format(schema=schema))
