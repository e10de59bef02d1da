"""The view that shows whole exchanges: documents with their headers and parts joined in, for people in mongosh."""

from __future__ import annotations

from typing import Any, Final

FULL: Final = "gemini_interactions_full"
_PARTS: Final = "gemini_parts"
_SHOWN: Final = ("kind", "size", "text", "body", "headers", "file", "data")
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
                "request.headers": _headers(0),
                "response.headers": _headers(1),
                "request.parts": _joined("$parts.request"),
                "response.parts": _joined("$parts.response"),
            }
        },
        {"$unset": ["_refs", "_direct", "_lists", "_listed", "record", "parts"]},
    ]


def _headers(number: int) -> Stage:
    """The header template of the request or the response; a value that is kept apart shows as null."""
    found = _find({"$arrayElemAt": ["$parts.headers", number]}, "$_direct")
    return {"$ifNull": [{"$let": {"vars": {"found": found}, "in": "$$found.headers"}}, "$$REMOVE"]}


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
                    "in": {name: f"$$found.{name}" for name in _SHOWN},
                }
            },
        }
    }
