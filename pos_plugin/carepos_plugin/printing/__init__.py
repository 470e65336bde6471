"""Receipts on paper: layout, queue and printers."""
