"""The view that shows whole exchanges: documents with their headers and parts joined in, for people in mongosh."""

from __future__ import annotations

from typing import Any, Final

FULL: Final = "gemini_interactions_full"
_PARTS: Final = "gemini_parts"
_SHOWN: Final = ("size", "text", "body", "file")
"""Of a part, besides its `part`, the hash that names it. What is compressed is left out: `gemini-proxy show` has it."""
_REFERENCES: Final = ("$parts.headers", "$parts.request", "$parts.response")

Stage = dict[str, Any]


def full_pipeline() -> list[Stage]:
    """Replaces references by what they stand for, in order; a list stands for its parts."""
    return [
        {"$set": {"_refs": {"$concatArrays": [{"$ifNull": [each, []]} for each in _REFERENCES]}}},
        {"$lookup": {"from": _PARTS, "localField": "_refs", "foreignField": "_id", "as": "_direct"}},
        {
            "$set": {
                "_lists": {
                    "$reduce": {
                        "input": {"$filter": {"input": "$_direct", "cond": {"$eq": ["$$this.kind", "list"]}}},
                        "initialValue": [],
                        "in": {"$concatArrays": ["$$value", "$$this.parts"]},
                    }
                }
            }
        },
        {"$lookup": {"from": _PARTS, "localField": "_lists", "foreignField": "_id", "as": "_listed"}},
        {
            "$set": {
                "request.headers": _headers(0, "$request.header_values"),
                "request.parts": _joined("$parts.request"),
                "response": _if_there("$response", {"headers": _headers(1, "$response.header_values")}),
            }
        },
        {"$set": {"response": _if_there("$response", {"parts": _joined("$parts.response")})}},
        {
            "$unset": [
                *("_refs", "_direct", "_lists", "_listed", "record", "record_part", "parts", "facet", "marks"),
                *("request.header_values", "response.header_values"),
            ]
        },
    ]


def _if_there(document: str, more: Stage) -> Stage:
    """The document with more fields, or nothing where it is missing."""
    return {"$cond": [{"$eq": [{"$type": document}, "missing"]}, "$$REMOVE", {"$mergeObjects": [document, more]}]}


def _headers(number: int, values: str) -> Stage:
    """Headers of the request or the response: those of the template, with the values that are kept apart put in."""
    found = _find({"$arrayElemAt": ["$parts.headers", number]}, "$_direct")
    is_apart = {"$eq": ["$$this.value", None]}
    value = {"$cond": [is_apart, {"$arrayElemAt": [values, "$$value.used"]}, "$$this.value"]}
    step = {
        "done": {"$concatArrays": ["$$value.done", [{"name": "$$this.name", "value": value}]]},
        "used": {"$add": ["$$value.used", {"$cond": [is_apart, 1, 0]}]},
    }
    filled = {"$reduce": {"input": "$$found.headers", "initialValue": {"done": [], "used": 0}, "in": step}}
    return {
        "$let": {
            "vars": {"found": found},
            "in": {"$let": {"vars": {"filled": filled}, "in": {"$ifNull": ["$$filled.done", []]}}},
        }
    }


def _find(reference: Any, documents: Any) -> Stage:
    return {"$first": {"$filter": {"input": documents, "as": "one", "cond": {"$eq": ["$$one._id", reference]}}}}


def _joined(references: str) -> Stage:
    expanded = {
        "$reduce": {
            "input": {"$ifNull": [references, []]},
            "initialValue": [],
            "in": {
                "$concatArrays": [
                    "$$value",
                    {
                        "$let": {
                            "vars": {"found": _find("$$this", "$_direct")},
                            "in": {
                                "$cond": [{"$eq": ["$$found.kind", "list"]}, "$$found.parts", ["$$this"]],
                            },
                        }
                    },
                ]
            },
        }
    }
    documents = {"$concatArrays": ["$_direct", "$_listed"]}
    return {
        "$map": {
            "input": expanded,
            "as": "reference",
            "in": {
                "$let": {
                    "vars": {"found": _find("$$reference", documents)},
                    "in": {"part": "$$reference"} | {name: f"$$found.{name}" for name in _SHOWN},
                }
            },
        }
    }
