"""A Croissant 1.0 description of a site's records: what may be known of them outside.

No file, column or value of the site is named: the description says which fields a plan learns
from, how they were masked, and how many units the site declared. It has no record set, because
Croissant wants a file behind each field, and there is none to have.
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
    "equivalentProperty": "cr:equivalentProperty",
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
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
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
            f" {site} and cannot be downloaded. Fields: prompt, {plan.text.answer}. Declared:"
            f" {share.num_units} units ({plan.mechanism.unit.value})."
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
    }
