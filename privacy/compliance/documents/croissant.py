"""A Croissant 1.0 description of a site's records: what may be known of them outside, and no more.

No file, no column and no value of the site is named: the description has fields as a plan names
them, how they were masked, and how many units the site declared.
"""

from typing import Any

from privacy.compliance.documents import Subject

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(subject: Subject, site: str) -> dict[str, Any]:
    """The description of one site's records."""
    plan = subject.run.plan
    share, masking = plan.share(site), plan.masking
    name = f"{plan.federation}-{site}"
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "description": (
            f"Records of {site} that plan {subject.run.digest} was trained on. They never left"
            f" {site} and cannot be downloaded. Declared: {share.num_units} units"
            f" ({plan.mechanism.unit.value})."
        ),
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "identifier": subject.ref("data", site),
        "url": f"urn:cloister:{plan.federation}:{site}",
        "license": "Not licensed: access stays with the institution",
        "version": "1.0.0",
        "citeAs": f"log {subject.evidence.log.checkpoint.origin}, root {subject.root}",
        "datePublished": subject.at.date().isoformat(),
        "creator": {"@type": "sc:Organization", "name": site},
        "isLiveDataset": True,
        "personalSensitiveInformation": (
            f"Masked before use ({masking.mode}; {', '.join(masking.languages)}):"
            f" {', '.join(masking.entity_types)}. Masking does not find all."
        ),
        "distribution": [],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "records",
                "name": "records",
                "description": "One row a record; no row is given here",
                "field": [_field("prompt"), _field(plan.text.answer)],
            }
        ],
    }


def _field(name: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"records/{name}",
        "name": name,
        "description": "Masked text that stays at the institution",
        "dataType": "sc:Text",
    }
