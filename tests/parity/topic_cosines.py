"""Cosines of topic names' embeddings: names that mean the same, and neighbours that do not; how many of each a
threshold takes for the same. The value of `same_meaning_cosine` in workflows/cosmopedia_v2.toml follows from it.

    pip install onnxruntime tokenizers numpy
    python tests/parity/topic_cosines.py ~/.cache/corpusmith/assets
"""

import sys

import numpy
import onnxruntime
from tokenizers import Tokenizer

SAME = [
    ("Binary Search Trees", "Binary search tree data structures"),
    ("Introduction to Linear Algebra", "Linear Algebra Basics"),
    ("Photosynthesis in Plants", "How plants photosynthesize"),
    ("The French Revolution", "History of the French Revolution"),
    ("Machine Learning Algorithms", "Algorithms for Machine Learning"),
    ("Healthy Eating Habits", "Habits of Healthy Eating"),
    ("Climate Change Effects", "Effects of climate change"),
    ("Teaching Reading to Children", "How to Teach Children to Read"),
    ("Probability Theory Fundamentals", "Foundations of Probability Theory"),
    ("Web Development with JavaScript", "JavaScript Web Development"),
    ("Data Structures and Algorithms", "Algorithms and Data Structures"),
    ("Cell Biology", "Biology of the cell"),
    ("Operating System Design", "Design of Operating Systems"),
    ("Classroom Management Strategies", "Strategies for Managing a Classroom"),
    ("Number Theory", "Theory of Numbers"),
    ("Graph Theory Applications", "Applications of Graph Theory"),
    ("Marine Ecosystems", "Ocean ecosystems"),
    ("Renaissance Art", "Art of the Renaissance"),
    ("Personal Finance Planning", "Planning your personal finances"),
    ("Relational Databases", "Relational database systems"),
    ("Special Education", "Teaching Students with Special Needs"),
    ("Astronomy for Beginners", "Beginner's Guide to Astronomy"),
    ("Solving Quadratic Equations", "Quadratic Equations and How to Solve Them"),
    ("Computer Networks", "Networking of Computers"),
    ("Ancient Roman Empire", "The Roman Empire in antiquity"),
    ("Cooking Vegetarian Meals", "Vegetarian cooking"),
    ("Introduction to Python", "Python for Beginners"),
    ("Genetics and Heredity", "Heredity and genes"),
    ("Software Testing", "Testing of software"),
    ("World War II", "The Second World War"),
]

NEIGHBOURS = [
    ("Binary Search Trees", "Red-Black Trees"),
    ("Linear Algebra", "Abstract Algebra"),
    ("Photosynthesis in Plants", "Respiration in Plants"),
    ("The French Revolution", "The Russian Revolution"),
    ("Supervised Learning", "Unsupervised Learning"),
    ("Healthy Eating Habits", "Eating Disorders"),
    ("Climate Change Effects", "Climate Change Policy"),
    ("Teaching Reading to Children", "Teaching Mathematics to Children"),
    ("Probability Theory", "Statistical Inference"),
    ("Web Development with JavaScript", "Web Development with Python"),
    ("Data Structures", "Data Mining"),
    ("Cell Biology", "Molecular Biology"),
    ("Operating System Design", "Compiler Design"),
    ("Classroom Management", "Curriculum Design"),
    ("Number Theory", "Set Theory"),
    ("Graph Theory", "Graph Databases"),
    ("Marine Ecosystems", "Freshwater Ecosystems"),
    ("Renaissance Art", "Renaissance Music"),
    ("Personal Finance", "Corporate Finance"),
    ("Relational Databases", "Object-Oriented Databases"),
    ("Special Education", "Early Childhood Education"),
    ("Astronomy for Beginners", "Astrology for Beginners"),
    ("Solving Quadratic Equations", "Solving Linear Equations"),
    ("Computer Networks", "Neural Networks"),
    ("Ancient Rome", "Ancient Greece"),
    ("Vegetarian Cooking", "Vegan Baking"),
    ("Introduction to Python", "Introduction to Ruby"),
    ("Differential Calculus", "Integral Calculus"),
    ("Software Testing", "Software Architecture"),
    ("World War I", "World War II"),
    ("Differential Equations", "Partial Differential Equations"),
    ("Organic Chemistry", "Inorganic Chemistry"),
    ("Microeconomics", "Macroeconomics"),
    ("Plane Geometry", "Solid Geometry"),
    ("Introduction to C", "Introduction to C++"),
]


tokenizer = Tokenizer.from_file(f"{sys.argv[1]}/tokenizer.json")
tokenizer.no_padding()
session = onnxruntime.InferenceSession(f"{sys.argv[1]}/model.onnx")


def embed(name):
    ids = numpy.array([tokenizer.encode(name).ids])
    feeds = {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}
    mean = session.run(["last_hidden_state"], feeds)[0][0].mean(0)
    return mean / numpy.linalg.norm(mean)


same, neighbours = ([float(embed(a) @ embed(b)) for a, b in pairs] for pairs in (SAME, NEIGHBOURS))
print(f"least of the same {min(same):.3f}, highest of the neighbours {max(neighbours):.3f}")
for threshold in (0.76, 0.78, 0.80, 0.82, 0.84, 0.86, 0.88, 0.90):
    taken = [sum(cosine >= threshold for cosine in group) for group in (same, neighbours)]
    print(f"{threshold:.2f}: {taken[0]} of {len(same)} and {taken[1]} of {len(neighbours)}")
