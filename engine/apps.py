from django.apps import AppConfig


class EngineConfig(AppConfig):
    name = "engine"

    def ready(self) -> None:
        from engine.processors import register_queue
        from engine.receipts import Receipts

        register_queue("events", Receipts())
