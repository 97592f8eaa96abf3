"""The app. `-A proj` finds it here."""

from mesh import Mesh

app = Mesh("proj", include=["proj.tasks"])

if __name__ == "__main__":
    app.start()
