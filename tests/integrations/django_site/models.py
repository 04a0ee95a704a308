"""What the shop keeps."""

from __future__ import annotations

from typing import Any

from django.db import models

from audit_async.integrations.django import audit_model


class Tag(models.Model):
    """Not recorded itself."""

    name = models.CharField(max_length=40)


@audit_model()
class Customer(models.Model):
    """With a cascade to its orders."""

    name = models.CharField(max_length=40)
    country = models.CharField(max_length=2, default="NL")


class OrderQuerySet(models.QuerySet):
    """Overrides what changes rows, as applications do."""

    def update(self, **values: Any) -> int:
        """Update as usual."""
        return int(super().update(**values))

    def cancel(self) -> int:
        """Change many in a method of its own."""
        return int(self.update(status="cancelled"))


class OpenOrders(models.Manager):
    """A manager that hides rows."""

    def get_queryset(self) -> Any:
        """Return the open ones."""
        return super().get_queryset().filter(status="open")


class Dated(models.Model):
    """An abstract base."""

    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        """Django's."""

        abstract = True


@audit_model(exclude=["created"])
class Order(Dated):
    """The model of most tests."""

    class Status(models.TextChoices):
        """Choices are texts of a class of their own."""

        OPEN = "open"
        PAID = "paid"
        CANCELLED = "cancelled"

    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, null=True, related_name="orders")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.OPEN)
    amount = models.DecimalField(max_digits=10, decimal_places=2, default=0)
    stock = models.IntegerField(default=0)
    note = models.TextField(default="")
    data = models.JSONField(default=dict)
    api_key = models.CharField(max_length=80, default="")
    tags = models.ManyToManyField(Tag)

    objects = OrderQuerySet.as_manager()
    open_orders = OpenOrders()


class GiftOrder(Order):
    """A child with a table of its own."""

    wrapping = models.CharField(max_length=20, default="paper")


class OrderProxy(Order):
    """The same table under another name."""

    class Meta:
        """Django's."""

        proxy = True


@audit_model()
class Invoice(models.Model):
    """Refers to an order, and outlives it."""

    order = models.ForeignKey(Order, on_delete=models.SET_NULL, null=True)
    number = models.CharField(max_length=20)


@audit_model(keys=True)
class Line(models.Model):
    """Deleted with its order, in one statement: nothing refers to it."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE)
    text = models.CharField(max_length=20)


@audit_model(before="database")
class Counter(models.Model):
    """Changed by several processes at once."""

    value = models.IntegerField(default=0)


class Unseen(models.Model):
    """Not recorded."""

    name = models.CharField(max_length=20)
