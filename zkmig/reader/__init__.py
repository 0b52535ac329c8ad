"""For services that read a scope while it may be migrated: whole views, and leave to act on them."""

from zkmig.reader.admission import Token
from zkmig.reader.baseline import BudgetExceeded
from zkmig.reader.budget import Budget
from zkmig.reader.reader import Reader
from zkmig.reader.view import View

__all__ = ["Budget", "BudgetExceeded", "Reader", "Token", "View"]
