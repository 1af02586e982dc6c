"""What the product team and the public see of feedback: web pages in French."""
